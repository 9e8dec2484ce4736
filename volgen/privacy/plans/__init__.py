"""Plans of privacy, ``privacy.kind`` of a configuration: who takes part in a step, a patient's largest part, the noise, and the cost."""

UNNAMED = "dp_sgd"
"""The plan of steps in a journal that name none: when those were written there was no other."""
