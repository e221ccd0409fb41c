"""A control plane of its own on loopback, with fake nodes: for audits, load and faults.

Real etcd, apiserver, controller-manager and scheduler; KWOK stands for the kubelets. It meets no
other cluster: every port is a free one of 127.0.0.1, every file lies in one folder.
"""
