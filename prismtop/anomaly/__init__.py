"""The anomaly simulation toolkit: faults with a lease, their labels, and the score of the monitor."""
