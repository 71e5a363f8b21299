"""Running tasks over many data sets, on one machine or many."""
