import data_prep.errors  # noqa: F401 - keeps other packages off the network
