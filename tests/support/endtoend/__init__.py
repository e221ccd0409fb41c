"""What the end-to-end tests share: the bench on the cluster and the runs that they submit."""
