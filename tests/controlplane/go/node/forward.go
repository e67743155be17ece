package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// copyBuffer is the size container runtimes copy with.
	copyBuffer = 32 * 1024
	// halfClosedGrace is what containerd leaves the other direction.
	halfClosedGrace = time.Second
	// dialLimit bounds a dial to a local test server.
	dialLimit = 5 * time.Second
)

// podConn is the connection to the process inside the pod.
type podConn struct {
	*net.TCPConn
	at     place
	killed atomic.Bool
}

// kill makes the pod side end as if the process behind it had died.
func (c *podConn) kill() {
	c.killed.Store(true)
	_ = c.TCPConn.Close()
}

func (c *podConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if err != nil && c.killed.Load() {
		err = io.EOF
	}
	return n, err
}

func (c *podConn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	if err != nil && c.killed.Load() {
		err = &net.OpError{Op: "write", Net: "tcp4", Addr: c.RemoteAddr(), Err: syscall.EPIPE}
	}
	return n, err
}

// forward serves one forwarded connection the way a container runtime does.
func (n *node) forward(ctx context.Context, box sandbox, port int32, stream io.ReadWriteCloser) error {
	at := place{Namespace: box.Namespace, Pod: box.Pod, Port: port}
	n.reg.count(at, func(c *counts) { c.StreamsOpen++; c.StreamsTotal++ })
	err := n.dialAndCopy(ctx, box, at, stream)
	n.reg.count(at, func(c *counts) {
		c.StreamsOpen--
		if err != nil {
			c.Failed++
		}
	})
	return err
}

func (n *node) dialAndCopy(ctx context.Context, box sandbox, at place, stream io.ReadWriteCloser) error {
	f, _ := n.reg.faultAt(at)
	if f.DelayMS > 0 {
		time.Sleep(time.Duration(f.DelayMS) * time.Millisecond)
		f, _ = n.reg.faultAt(at)
	}
	if f.Gone {
		return fmt.Errorf("failed to find sandbox %q in store: not found", box.id())
	}
	conn, err := n.dial(at, f.Refuse)
	if err != nil {
		return fmt.Errorf("failed to execute portforward in network namespace %q: %w", box.netns(), err)
	}
	defer conn.Close()
	n.reg.update(func() { n.reg.conns[conn] = struct{}{} })
	defer n.reg.update(func() { delete(n.reg.conns, conn) })
	if n.mode(box.Node) == modeHalfClose {
		return n.copyHalfClose(conn, stream)
	}
	return n.copyContainerd(ctx, conn, stream)
}

// dial reaches the local server that stands for the process in the pod.
func (n *node) dial(at place, refuse bool) (*podConn, error) {
	target := n.reg.target(at)
	if target != "" && !refuse {
		conn, err := net.DialTimeout("tcp", target, dialLimit)
		if err == nil {
			return &podConn{TCPConn: conn.(*net.TCPConn), at: at}, nil
		}
	}
	return nil, fmt.Errorf("failed to connect to localhost:%d inside namespace, "+
		"IPv4: dial tcp4 127.0.0.1:%d: connect: connection refused "+
		"IPv6 dial tcp6 [::1]:%d: connect: connection refused", at.Port, at.Port, at.Port)
}

// copyContainerd never half-closes: when one direction ends, the other has a
// second, then everything is closed and what is unread stays unread.
func (n *node) copyContainerd(ctx context.Context, conn *podConn, stream io.ReadWriteCloser) error {
	ended := make(chan error, 2)
	go func() { ended <- n.pump(stream, conn, conn.at, false) }()
	go func() { ended <- n.pump(conn, stream, conn.at, true) }()
	first := <-ended
	select {
	case second := <-ended:
		if first == nil {
			first = second
		}
	case <-time.After(halfClosedGrace):
	case <-ctx.Done():
		return ctx.Err()
	}
	return first
}

// copyHalfClose passes each direction's end on by itself.
func (n *node) copyHalfClose(conn *podConn, stream io.ReadWriteCloser) error {
	ended := make(chan error, 2)
	go func() {
		err := n.pump(stream, conn, conn.at, false)
		if err == nil {
			err = stream.Close()
		}
		ended <- err
	}()
	go func() {
		err := n.pump(conn, stream, conn.at, true)
		if err == nil && !conn.killed.Load() {
			err = ignoreNotConnected(conn.CloseWrite())
		}
		ended <- err
	}()
	if err := <-ended; err != nil {
		return err
	}
	return <-ended
}

// ignoreNotConnected forgives a half-close of a socket whose peer is gone.
func ignoreNotConnected(err error) error {
	if op, ok := err.(*net.OpError); ok {
		if sys, ok := op.Err.(interface{ Unwrap() error }); ok && sys.Unwrap() == syscall.ENOTCONN {
			return nil
		}
	}
	return err
}

// pump copies one direction, stopping at the gate while it is stalled.
func (n *node) pump(dst io.Writer, src io.Reader, at place, up bool) error {
	buffer := make([]byte, copyBuffer)
	for {
		n.gate(at, up)
		read, err := src.Read(buffer)
		if read > 0 {
			n.gate(at, up)
			if _, werr := dst.Write(buffer[:read]); werr != nil {
				return werr
			}
			n.reg.count(at, func(c *counts) {
				if up {
					c.BytesUp += int64(read)
				} else {
					c.BytesDown += int64(read)
				}
			})
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// gate returns when this direction of this place is not stalled.
func (n *node) gate(at place, up bool) {
	for {
		f, changed := n.reg.faultAt(at)
		if stalled := (up && f.StallUp) || (!up && f.StallDown); !stalled || f.Gone {
			return
		}
		<-changed
	}
}
