"""The run directory: what it holds, who may write it, and how a finished run is opened."""
