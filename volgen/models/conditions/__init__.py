"""What a volume may be asked for, such as the age of a person: numbers of a scan that a network is told. A file is a kind of condition."""
