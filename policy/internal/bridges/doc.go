// Package bridges sees to it that policies reach what goes between ports of a bridge, or else that no IP goes there: the kernel takes
// such packets to the hooks of IP only with br_netfilter. It knows no policies.
package bridges
