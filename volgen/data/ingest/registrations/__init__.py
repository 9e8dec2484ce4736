"""Which frame scans are brought into: ``--registration`` of ``volgen ingest``."""
