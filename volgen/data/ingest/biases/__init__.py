"""What is done about a scan's own shading: ``--bias`` of ``volgen ingest``."""
