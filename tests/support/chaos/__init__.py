"""Whole lives of runs on real control-plane programs, while something goes wrong.

Real: etcd, apiserver, Job controller, garbage collector (:mod:`bare.plane`), and the operator as a
process that is killed and started anew. A stand-in: :mod:`chaos.kubelet`, which binds pods and says
how they go. Between the operator and the apiserver stands :mod:`chaos.gate`.
"""
