package main

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// watchPods makes streams end as they do on a machine: a deleted or finished
// pod has no sandbox any more, a restarted container drops its connections.
func watchPods(ctx context.Context, kubeconfig string, reg *registry) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	informer := factory.Core().V1().Pods().Informer()
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { seen(reg, nil, obj.(*corev1.Pod)) },
		UpdateFunc: func(old, obj any) { seen(reg, old.(*corev1.Pod), obj.(*corev1.Pod)) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				reg.bury(placeOf(pod))
			}
		},
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	return nil
}

func placeOf(pod *corev1.Pod) place {
	return place{Namespace: pod.Namespace, Pod: pod.Name}
}

func seen(reg *registry, old, pod *corev1.Pod) {
	finished := pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
	switch {
	case finished:
		reg.bury(placeOf(pod))
	case old == nil || old.UID != pod.UID:
		reg.revive(placeOf(pod))
	case restarts(pod) > restarts(old):
		reg.killConns(placeOf(pod))
	}
}

func restarts(pod *corev1.Pod) int32 {
	var sum int32
	for _, status := range pod.Status.ContainerStatuses {
		sum += status.RestartCount
	}
	return sum
}
