"""How scanners acquire: which lines of k-space, with which coils and fields, all of it functions of a seed."""
