package main

import (
	"iter"
	"slices"

	"github.com/podweft/podweft/policy"
)

// peers yields every peer of every rule.
func peers(m policy.Model) iter.Seq[policy.Peer] {
	return func(yield func(policy.Peer) bool) {
		for peers := range rulesOf(m) {
			for _, p := range peers {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// portsNamed yields every port of every rule.
func portsNamed(m policy.Model) iter.Seq[policy.Port] {
	return func(yield func(policy.Port) bool) {
		for _, list := range rulesOf(m) {
			for _, p := range list {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// rulesOf yields what the rules of both kinds of policies have in common.
func rulesOf(m policy.Model) iter.Seq2[[]policy.Peer, []policy.Port] {
	return func(yield func([]policy.Peer, []policy.Port) bool) {
		for _, np := range m.Policies {
			for _, r := range slices.Concat(np.Ingress, np.Egress) {
				if !yield(r.Peers, r.Ports) {
					return
				}
			}
		}
		for _, cnp := range m.ClusterPolicies {
			for _, r := range slices.Concat(cnp.Ingress, cnp.Egress) {
				if !yield(r.Peers, r.Ports) {
					return
				}
			}
		}
	}
}
