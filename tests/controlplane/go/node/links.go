package main

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// link is one TCP connection from the API server, with a gate to freeze it.
type link struct {
	net.Conn
	owner  *links
	node   string
	mu     sync.Mutex
	stream bool
	at     place
	closed chan struct{}
	once   sync.Once
}

// linkFilter picks links: streaming ones of a node and pod, or Any of a node.
type linkFilter struct {
	place
	Node string `json:"node"`
	Any  bool   `json:"-"`
}

// links knows every open connection to the node.
type links struct {
	mu     sync.Mutex
	open   map[*link]struct{}
	frozen []linkFilter
	thaw   chan struct{}
}

func newLinks() *links {
	return &links{open: map[*link]struct{}{}, thaw: make(chan struct{})}
}

type linkListener struct {
	net.Listener
	owner *links
	node  string
}

func (l *links) wrap(inner net.Listener, node string) net.Listener {
	return &linkListener{Listener: inner, owner: l, node: node}
}

func (l *linkListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	made := &link{Conn: conn, owner: l.owner, node: l.node, closed: make(chan struct{})}
	l.owner.mu.Lock()
	l.owner.open[made] = struct{}{}
	l.owner.mu.Unlock()
	return made, nil
}

func (c *link) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.owner.mu.Lock()
		delete(c.owner.open, c)
		c.owner.mu.Unlock()
	})
	return c.Conn.Close()
}

func (c *link) Read(p []byte) (int, error) {
	c.wait()
	n, err := c.Conn.Read(p)
	c.wait()
	return n, err
}

func (c *link) Write(p []byte) (int, error) {
	c.wait()
	return c.Conn.Write(p)
}

// wait holds a frozen connection: bytes stay in the kernel's buffers.
func (c *link) wait() {
	for {
		frozen, thaw := c.owner.isFrozen(c)
		if !frozen {
			return
		}
		select {
		case <-thaw:
		case <-c.closed:
			return
		}
	}
}

func (c *link) matches(f linkFilter) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.Node != "" && f.Node != c.node {
		return false
	}
	return f.Any || (c.stream && f.covers(c.at))
}

func (l *links) isFrozen(c *link) (bool, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.frozen {
		if c.matches(f) {
			return true, l.thaw
		}
	}
	return false, l.thaw
}

// freeze sets what is frozen from now on; nil thaws everything.
func (l *links) freeze(filters []linkFilter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = filters
	close(l.thaw)
	l.thaw = make(chan struct{})
}

// mark notes which pod a connection now streams for.
func (l *links) mark(c *link, at place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stream, c.at = true, at
}

// cut closes links; with reset the peer sees RST instead of FIN.
func (l *links) cut(f linkFilter, reset bool) int {
	l.mu.Lock()
	var doomed []*link
	for c := range l.open {
		if c.matches(f) {
			doomed = append(doomed, c)
		}
	}
	l.mu.Unlock()
	for _, c := range doomed {
		if tcp, ok := c.Conn.(*net.TCPConn); ok && reset {
			_ = tcp.SetLinger(0)
		}
		_ = c.Conn.SetDeadline(time.Now())
		_ = c.Close()
	}
	return len(doomed)
}

type linkKey struct{}

func linkInContext(ctx context.Context, conn net.Conn) context.Context {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	return context.WithValue(ctx, linkKey{}, conn)
}

func linkOf(ctx context.Context) *link {
	found, _ := ctx.Value(linkKey{}).(*link)
	return found
}
