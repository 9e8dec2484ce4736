"""What every part of volgen shares: types, noise coordinate, randomness, errors, configuration, manifests.

Nothing in here imports another volgen package.
"""
