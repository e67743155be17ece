package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"

	remotecommand "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// sandbox identifies the pod a stream belongs to, on the node it came by.
type sandbox struct {
	Node, Namespace, Pod string
}

// id looks like a container runtime's: 64 hexadecimal digits.
func (s sandbox) id() string {
	sum := sha256.Sum256([]byte(s.Node + "/" + s.Namespace + "/" + s.Pod))
	return hex.EncodeToString(sum[:])
}

func (s sandbox) netns() string {
	return "/var/run/netns/cni-" + s.id()[:8]
}

// pods remembers which sandbox an identifier stands for.
type pods struct {
	mu   sync.Mutex
	byID map[string]sandbox
}

func (p *pods) enter(s sandbox) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byID[s.id()] = s
	return s.id()
}

func (p *pods) find(id string) (sandbox, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.byID[id]
	if !ok {
		return s, fmt.Errorf("failed to find sandbox %q in store: not found", id)
	}
	return s, nil
}

// PortForward implements the streaming library's Runtime.
func (n *node) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	box, err := n.pods.find(id)
	if err != nil {
		return err
	}
	return n.forward(ctx, box, port, stream)
}

// Attach implements the streaming library's Runtime.
func (n *node) Attach(context.Context, string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
	return errors.New("attach is not served by this node")
}

// Exec implements the streaming library's Runtime: a real process on this
// machine, in the directory and environment registered for the pod.
func (n *node) Exec(ctx context.Context, id string, argv []string, in io.Reader, out, errout io.WriteCloser, tty bool, sizes <-chan remotecommand.TerminalSize) error {
	sandboxID, _, _ := strings.Cut(id, "/")
	box, err := n.pods.find(sandboxID)
	if err != nil {
		return err
	}
	rule, ok := n.reg.execAt(place{Namespace: box.Namespace, Pod: box.Pod})
	if !ok {
		return fmt.Errorf("no process environment is registered for pod %s/%s", box.Namespace, box.Pod)
	}
	command := exec.CommandContext(ctx, argv[0], argv[1:]...)
	if len(rule.Wrap) > 0 {
		argv = append(append([]string{}, rule.Wrap...), argv...)
		command = exec.CommandContext(ctx, argv[0], argv[1:]...)
	}
	command.Dir = rule.Root
	command.Env = []string{"PATH=" + os.Getenv("PATH")}
	for name, value := range rule.Env {
		command.Env = append(command.Env, name+"="+value)
	}
	if tty {
		return runOnTerminal(command, in, out, sizes)
	}
	command.Stdout, command.Stderr = out, errout
	return runWithInput(command, in)
}

// runWithInput feeds stdin by a pipe of our own: waiting for the process must
// not wait for a client that never ends its input.
func runWithInput(command *exec.Cmd, in io.Reader) error {
	if in != nil {
		pipe, err := command.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(pipe, in)
			_ = pipe.Close()
		}()
	}
	return told(command.Run())
}

// told says how a process ended in the words the streaming library knows.
func told(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}

func (r *registry) execAt(at place) (execRule, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.execs) - 1; i >= 0; i-- {
		if r.execs[i].covers(at) {
			return r.execs[i], true
		}
	}
	return execRule{}, false
}

func (r *registry) logAt(at place, container string) (logRule, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.logs) - 1; i >= 0; i-- {
		rule := r.logs[i]
		if rule.covers(at) && (rule.Container == "" || rule.Container == container) {
			return rule, true
		}
	}
	return logRule{}, false
}
