package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// serve runs the node until it is killed. It prints one line, "control ADDR",
// followed by one "node NAME ADDR" line for each node, then "ready".
func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "where pods are watched")
	cert := flags.String("cert", "", "serving certificate")
	key := flags.String("key", "", "serving key")
	clientCA := flags.String("client-ca", "", "who may connect")
	control := flags.String("control", "127.0.0.1:0", "address of the control API")
	names := flags.String("nodes", "", "comma-separated node names")
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, err := serverTLS(*cert, *key, *clientCA)
	if err != nil {
		return err
	}
	reg := newRegistry()
	n, err := newNode(reg, config)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *control)
	if err != nil {
		return err
	}
	lines := []string{"control " + listener.Addr().String()}
	for _, name := range strings.Split(*names, ",") {
		if err := n.up(name); err != nil {
			return err
		}
		lines = append(lines, "node "+name+" "+n.faces[name].addr)
	}
	if err := watchPods(context.Background(), *kubeconfig, reg); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, strings.Join(append(lines, "ready"), "\n"))
	server := &http.Server{Handler: n.routes(), ReadHeaderTimeout: 10 * time.Second}
	return server.Serve(listener)
}
