package main

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// routes is the control API: JSON in, JSON out, on loopback, tests only.
func (n *node) routes() http.Handler {
	mux := http.NewServeMux()
	on(mux, "POST /nodes", n.controlNode)
	on(mux, "POST /ports", func(rule portRule) (any, error) { n.reg.setPort(rule); return nil, nil })
	on(mux, "POST /faults", n.controlFault)
	on(mux, "POST /cut", func(in cutRequest) (any, error) {
		return map[string]int{"cut": n.links.cut(in.linkFilter, in.Reset)}, nil
	})
	on(mux, "POST /kill", func(in place) (any, error) {
		return map[string]int{"killed": n.reg.killConns(in)}, nil
	})
	on(mux, "POST /freeze", func(in []linkFilter) (any, error) { n.links.freeze(in); return nil, nil })
	on(mux, "POST /counters", func(in place) (any, error) { return n.reg.total(in), nil })
	on(mux, "POST /exec", func(rule execRule) (any, error) {
		n.reg.update(func() { n.reg.execs = append(n.reg.execs, rule) })
		return nil, nil
	})
	on(mux, "POST /logs", func(rule logRule) (any, error) {
		n.reg.update(func() { n.reg.logs = append(n.reg.logs, rule) })
		return nil, nil
	})
	on(mux, "POST /reset", func(struct{}) (any, error) { n.reset(); return nil, nil })
	on(mux, "POST /tokens", n.controlToken)
	on(mux, "POST /tokenreview", n.reg.review)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	return mux
}

// on adapts a typed function to an endpoint.
func on[In any](mux *http.ServeMux, pattern string, do func(In) (any, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, err := do(in)
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out)
	})
}

type nodeRequest struct {
	Name string `json:"name"`
	Mode string `json:"mode"`
	Up   *bool  `json:"up"`
}

type cutRequest struct {
	linkFilter
	Reset bool `json:"reset"`
}

type faultRequest struct {
	place
	fault
}

// controlNode creates a node or changes its mode or whether it answers.
func (n *node) controlNode(in nodeRequest) (any, error) {
	if in.Mode != "" && in.Mode != modeContainerd && in.Mode != modeHalfClose {
		return nil, fmt.Errorf("unknown mode %q", in.Mode)
	}
	if in.Up != nil && !*in.Up {
		n.down(in.Name)
	} else if in.Up != nil {
		if err := n.up(in.Name); err != nil {
			return nil, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.faces[in.Name]
	if f == nil {
		return nil, fmt.Errorf("no node %q", in.Name)
	}
	if in.Mode != "" {
		f.mode = in.Mode
	}
	return map[string]any{"addr": f.addr, "mode": f.mode, "up": f.server != nil}, nil
}

// controlFault sets the whole fault of one place; a zero fault clears it.
func (n *node) controlFault(in faultRequest) (any, error) {
	n.reg.update(func() {
		if in.fault == (fault{}) {
			delete(n.reg.faults, in.place)
		} else {
			n.reg.faults[in.place] = in.fault
		}
	})
	return nil, nil
}

// reset forgets all rules and faults; nodes come up in containerd mode.
func (n *node) reset() {
	n.reg.update(func() {
		n.reg.ports, n.reg.execs, n.reg.logs = nil, nil, nil
		n.reg.faults = map[place]fault{}
	})
	n.links.freeze(nil)
	n.mu.Lock()
	names := make([]string, 0, len(n.faces))
	for name, f := range n.faces {
		f.mode = modeContainerd
		names = append(names, name)
	}
	n.mu.Unlock()
	for _, name := range names {
		if err := n.up(name); err != nil {
			fail(err)
		}
	}
}
