"""Pages, figures and tables, made from files on disk only."""
