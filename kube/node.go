package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podweft/podweft/subnet"
)

// NodePublicIP reads which addresses an operator has chosen for the node's agent, as [Annotations.NodePublicIP] does, of the Node in
// the cluster. Errors: podweft.ErrInvalid beside what is sound, [ErrNoSubnet] where there is no such Node.
func (s *Store) NodePublicIP(ctx context.Context, node string) (subnet.Addrs, error) {
	n, err := s.node(ctx, node)
	if err != nil {
		return subnet.Addrs{}, err
	}
	return s.cfg.Annotations.NodePublicIP(n)
}

// Given returns the subnets that the cluster has given the node for the Network: what [Store.Acquire] would lease. Its errors are that
// one's.
func (s *Store) Given(ctx context.Context, node string) (subnet.Prefixes, error) {
	if s.cfg.Network == nil {
		return subnet.Prefixes{}, subnet.ErrNoNetwork
	}
	n, err := s.node(ctx, node)
	if err != nil {
		return subnet.Prefixes{}, err
	}
	return s.given(n)
}

// NodeOf returns the name of the node that a pod runs on: for an agent that was told its pod's name alone.
func (s *Store) NodeOf(ctx context.Context, namespace, pod string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	var p corev1.Pod
	if err := s.client.Get().Namespace(namespace).Resource("pods").Name(pod).Do(ctx).Into(&p); err != nil {
		return "", fmt.Errorf("which node the pod %s/%s runs on: %w", namespace, pod, err)
	}
	return p.Spec.NodeName, nil
}

// SetNetworkAvailable says in the node's status that pods can be started there: the condition NetworkUnavailable is False, with a
// reason (a word, such as flannel's "FlannelIsUp") and a message for people. A cloud's nodes are tainted until somebody says so.
// What stands there already is not written again.
func (s *Store) SetNetworkAvailable(ctx context.Context, node, reason, message string) error {
	_, err := s.write(ctx, node, func(n *corev1.Node) (change, error) {
		want := corev1.NodeCondition{
			Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: reason, Message: message,
			LastHeartbeatTime: metav1.NewTime(time.Now()), LastTransitionTime: metav1.NewTime(time.Now()),
		}
		for _, have := range n.Status.Conditions {
			if have.Type != want.Type || have.Status != want.Status {
				continue
			}
			if have.Reason == reason && have.Message == message {
				return change{}, nil
			}
			want.LastTransitionTime = have.LastTransitionTime
		}
		return change{conditions: []corev1.NodeCondition{want}}, nil
	})
	return err
}

// node reads a Node. It is a list of one: agents may list nodes, but flannel's ClusterRole does not let them get one.
func (s *Store) node(ctx context.Context, name string) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	var found corev1.NodeList
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	if err := s.client.Get().Resource("nodes").Param("fieldSelector", selector).Do(ctx).Into(&found); err != nil {
		return nil, fmt.Errorf("look up the node %s: %w", name, err)
	}
	if len(found.Items) == 0 {
		return nil, fmt.Errorf("%w: there is no Node %q", ErrNoSubnet, name)
	}
	return &found.Items[0], nil
}

// change is what is to be written to a Node; its zero value is nothing.
type change struct {
	annotations map[string]*string
	conditions  []corev1.NodeCondition
}

// write changes a Node as decide says, which is asked again when somebody else was faster. It returns the Node as it is then.
func (s *Store) write(ctx context.Context, name string, decide func(*corev1.Node) (change, error)) (*corev1.Node, error) {
	for {
		node, err := s.node(ctx, name)
		if err != nil {
			return nil, err
		}
		c, err := decide(node)
		if err != nil || len(c.annotations)+len(c.conditions) == 0 {
			return node, err
		}
		written, err := s.patch(ctx, node, c)
		if !apierrors.IsConflict(err) || ctx.Err() != nil {
			return written, err
		}
	}
}

// patch changes the Node if it still is as it was read. It goes to the status, whose strategy takes annotations too: so flannel
// does, and what flannel's ClusterRole permits is enough.
func (s *Store) patch(ctx context.Context, node *corev1.Node, c change) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	metadata := map[string]any{"resourceVersion": node.ResourceVersion, "uid": node.UID}
	body := map[string]any{"metadata": metadata}
	if len(c.annotations) > 0 {
		metadata["annotations"] = c.annotations
	}
	if len(c.conditions) > 0 {
		body["status"] = map[string]any{"conditions": c.conditions}
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	var written corev1.Node
	err = s.client.Patch(types.StrategicMergePatchType).Resource("nodes").Name(node.Name).SubResource("status").Body(text).Do(ctx).Into(&written)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w: there is no Node %q", ErrNoSubnet, node.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("write to the node %s: %w", node.Name, err)
	}
	return &written, nil
}
