package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
)

const (
	modeContainerd = "containerd"
	modeHalfClose  = "half-close"
)

// node is one machine's streaming side, serving one port per Node object.
type node struct {
	reg     *registry
	pods    *pods
	streams streaming.Server
	links   *links
	tls     *tls.Config

	mu    sync.Mutex
	faces map[string]*face
}

// face is what one Node object shows: a port, a copy mode, up or down.
type face struct {
	addr   string
	mode   string
	server *http.Server
}

func newNode(reg *registry, config *tls.Config) (*node, error) {
	n := &node{
		reg:   reg,
		pods:  &pods{byID: map[string]sandbox{}},
		links: newLinks(),
		tls:   config,
		faces: map[string]*face{},
	}
	settings := streaming.DefaultConfig
	settings.BaseURL = &url.URL{Scheme: "https", Host: "node", Path: "/"}
	var err error
	n.streams, err = streaming.NewServer(settings, n)
	return n, err
}

// serverTLS accepts only the API server's client certificate.
func serverTLS(cert, key, clientCA string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(clientCA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", clientCA)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientCAs:    roots,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		NextProtos:   []string{"http/1.1"},
	}, nil
}

// up opens a node's port; a known node gets its old port back.
func (n *node) up(name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.faces[name]
	if f == nil {
		f = &face{addr: "127.0.0.1:0", mode: modeContainerd}
	} else if f.server != nil {
		return nil
	}
	listener, err := net.Listen("tcp", f.addr)
	if err != nil {
		return err
	}
	f.addr = listener.Addr().String()
	f.server = &http.Server{
		Handler:           n.handler(name),
		ConnContext:       linkInContext,
		ReadHeaderTimeout: 30 * time.Second,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	n.faces[name] = f
	go func(server *http.Server) {
		err := server.Serve(tls.NewListener(n.links.wrap(listener, name), n.tls))
		if !errors.Is(err, http.ErrServerClosed) {
			fail(err)
		}
	}(f.server)
	return nil
}

// down closes a node's port and everything on it, as a dead machine would.
func (n *node) down(name string) {
	n.mu.Lock()
	f := n.faces[name]
	var server *http.Server
	if f != nil {
		server, f.server = f.server, nil
	}
	n.mu.Unlock()
	if server != nil {
		_ = server.Close()
		n.links.cut(linkFilter{Node: name, Any: true}, true)
	}
}

func (n *node) mode(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f := n.faces[name]; f != nil {
		return f.mode
	}
	return modeContainerd
}

// handler serves the kubelet's paths by asking the streaming library for a
// one-use URL and following it in place, where a kubelet proxies to it.
func (n *node) handler(name string) http.Handler {
	mux := http.NewServeMux()
	forward := func(w http.ResponseWriter, r *http.Request) { n.servePortForward(name, w, r) }
	mux.HandleFunc("/portForward/{ns}/{pod}", forward)
	mux.HandleFunc("/portForward/{ns}/{pod}/{uid}", forward)
	run := func(w http.ResponseWriter, r *http.Request) { n.serveExec(name, w, r) }
	mux.HandleFunc("/exec/{ns}/{pod}/{container}", run)
	mux.HandleFunc("/exec/{ns}/{pod}/{uid}/{container}", run)
	mux.HandleFunc("GET /containerLogs/{ns}/{pod}/{container}", n.serveLogs)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	return mux
}

func (n *node) servePortForward(name string, w http.ResponseWriter, r *http.Request) {
	box := sandbox{Node: name, Namespace: r.PathValue("ns"), Pod: r.PathValue("pod")}
	at := place{Namespace: box.Namespace, Pod: box.Pod}
	ports, err := legacyPorts(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	request := &runtimeapi.PortForwardRequest{PodSandboxId: n.pods.enter(box), Port: ports}
	reply, err := n.streams.GetPortForward(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if link := linkOf(r.Context()); link != nil {
		n.links.mark(link, at)
	}
	n.reg.count(at, func(c *counts) { c.TunnelsOpen++; c.TunnelsTotal++ })
	defer n.reg.count(at, func(c *counts) { c.TunnelsOpen-- })
	n.follow(reply.Url, w, r)
}

// legacyPorts reads the ports of the old WebSocket protocol; SPDY has none.
func legacyPorts(query url.Values) ([]int32, error) {
	var ports []int32
	for _, list := range query["port"] {
		for _, text := range strings.Split(list, ",") {
			var port int32
			if _, err := fmt.Sscanf(text, "%d", &port); err != nil {
				return nil, fmt.Errorf("bad port %q", text)
			}
			ports = append(ports, port)
		}
	}
	return ports, nil
}

func (n *node) serveExec(name string, w http.ResponseWriter, r *http.Request) {
	box := sandbox{Node: name, Namespace: r.PathValue("ns"), Pod: r.PathValue("pod")}
	query := r.URL.Query()
	is := func(key string) bool { return query.Get(key) == "1" || query.Get(key) == "true" }
	reply, err := n.streams.GetExec(&runtimeapi.ExecRequest{
		ContainerId: path.Join(n.pods.enter(box), r.PathValue("container")),
		Cmd:         query["command"],
		Tty:         is("tty"),
		Stdin:       is("input"),
		Stdout:      is("output"),
		Stderr:      is("error"),
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n.follow(reply.Url, w, r)
}

func (n *node) follow(to string, w http.ResponseWriter, r *http.Request) {
	parsed, err := url.Parse(to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	inner := r.Clone(context.WithoutCancel(r.Context()))
	inner.URL.Path, inner.URL.RawPath = parsed.Path, ""
	n.streams.ServeHTTP(w, inner)
}
