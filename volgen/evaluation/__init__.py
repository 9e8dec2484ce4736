"""Measures of volumes and of cohorts, and the bands of real volumes that they are compared with."""
