package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"syscall"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/policy"
)

// cluster reads what is in the cluster of a kubeconfig. What makes no sense there is noted, and does not keep the rest from being
// looked at.
func (p *program) cluster(kubeconfig string) (policy.Model, error) {
	client, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return policy.Model{}, fmt.Errorf("%s: %w", kubeconfig, err)
	}
	source, err := kube.NewPolicies(kube.PoliciesConfig{Client: client})
	if err != nil {
		return policy.Model{}, fmt.Errorf("%s: %w", kubeconfig, err)
	}
	defer source.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	all, err := source.List(ctx)
	if err != nil {
		return policy.Model{}, err
	}
	if err := errors.Join(all.Problems...); err != nil {
		p.note(err)
	}
	return all.Put, nil
}
