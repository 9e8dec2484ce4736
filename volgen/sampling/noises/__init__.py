"""What sampling draws its noise from: ``--noise`` of ``volgen sample``."""
