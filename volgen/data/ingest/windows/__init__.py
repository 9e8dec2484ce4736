"""What of a scan's brightness becomes 0 and 1: ``--window`` of ``volgen ingest``."""
