package main

import (
	"path"
	"sync"
)

// place names a port of a pod; Pod may be a glob, Port 0 means every port.
type place struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Port      int32  `json:"port"`
}

// covers reports whether the rule p applies to the concrete place q.
func (p place) covers(q place) bool {
	if p.Namespace != "" && p.Namespace != q.Namespace {
		return false
	}
	if p.Port != 0 && q.Port != 0 && p.Port != q.Port {
		return false
	}
	if p.Pod == "" {
		return true
	}
	ok, err := path.Match(p.Pod, q.Pod)
	return err == nil && ok
}

// fault is what a test asked to go wrong at a place.
type fault struct {
	Refuse    bool `json:"refuse"`
	Gone      bool `json:"gone"`
	StallUp   bool `json:"stall_up"`
	StallDown bool `json:"stall_down"`
	DelayMS   int  `json:"delay_ms"`
}

// counts are totals for one pod.
type counts struct {
	TunnelsOpen  int   `json:"tunnels_open"`
	TunnelsTotal int   `json:"tunnels_total"`
	StreamsOpen  int   `json:"streams_open"`
	StreamsTotal int   `json:"streams_total"`
	Failed       int   `json:"failed"`
	BytesUp      int64 `json:"bytes_up"`
	BytesDown    int64 `json:"bytes_down"`
}

func (c *counts) add(other *counts) {
	c.TunnelsOpen += other.TunnelsOpen
	c.TunnelsTotal += other.TunnelsTotal
	c.StreamsOpen += other.StreamsOpen
	c.StreamsTotal += other.StreamsTotal
	c.Failed += other.Failed
	c.BytesUp += other.BytesUp
	c.BytesDown += other.BytesDown
}

type portRule struct {
	place
	Target string `json:"target"`
}

type execRule struct {
	place
	Env  map[string]string `json:"env"`
	Root string            `json:"root"`
	Wrap []string          `json:"wrap"`
}

type logRule struct {
	place
	Container string `json:"container"`
	File      string `json:"file"`
	Previous  string `json:"previous"`
}

// registry is everything the control API can change. Waiters watch `changed`,
// which is closed and replaced at every change.
type registry struct {
	mu      sync.Mutex
	changed chan struct{}
	ports   []portRule
	faults  map[place]fault
	execs   []execRule
	logs    []logRule
	tokens  map[string]identity
	dead    map[place]bool
	counts  map[place]*counts
	conns   map[*podConn]struct{}
}

func newRegistry() *registry {
	return &registry{
		changed: make(chan struct{}),
		faults:  map[place]fault{},
		tokens:  map[string]identity{},
		dead:    map[place]bool{},
		counts:  map[place]*counts{},
		conns:   map[*podConn]struct{}{},
	}
}

// update runs one change under the lock and wakes everybody who waits.
func (r *registry) update(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

// faultAt merges all rules that cover a place.
func (r *registry) faultAt(at place) (fault, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var merged fault
	for rule, f := range r.faults {
		if !rule.covers(at) {
			continue
		}
		merged.Refuse = merged.Refuse || f.Refuse
		merged.Gone = merged.Gone || f.Gone
		merged.StallUp = merged.StallUp || f.StallUp
		merged.StallDown = merged.StallDown || f.StallDown
		merged.DelayMS = max(merged.DelayMS, f.DelayMS)
	}
	if r.dead[place{Namespace: at.Namespace, Pod: at.Pod}] {
		merged.Gone = true
	}
	return merged, r.changed
}

// target finds the local address behind a pod's port; the newest rule wins.
func (r *registry) target(at place) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.ports) - 1; i >= 0; i-- {
		if r.ports[i].covers(at) {
			return r.ports[i].Target
		}
	}
	return ""
}

// setPort replaces the rule of exactly this place; an empty target removes it.
func (r *registry) setPort(rule portRule) {
	r.update(func() {
		kept := r.ports[:0:0]
		for _, old := range r.ports {
			if old.place != rule.place {
				kept = append(kept, old)
			}
		}
		if rule.Target != "" {
			kept = append(kept, rule)
		}
		r.ports = kept
	})
}

// count changes the totals of the pod at a place.
func (r *registry) count(at place, change func(*counts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at.Port = 0
	if r.counts[at] == nil {
		r.counts[at] = &counts{}
	}
	change(r.counts[at])
}

// total sums the counters of all pods a rule covers.
func (r *registry) total(rule place) counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	var sum counts
	for at, c := range r.counts {
		if rule.covers(at) {
			sum.add(c)
		}
	}
	return sum
}

// bury marks a pod's sandbox as gone and ends what its processes had open.
func (r *registry) bury(at place) {
	r.update(func() { r.dead[at] = true })
	r.killConns(at)
}

// revive forgets that a pod of this name once died.
func (r *registry) revive(at place) {
	r.update(func() { delete(r.dead, at) })
}

// killConns ends the pod side of streams, as processes do when they die.
func (r *registry) killConns(rule place) int {
	r.mu.Lock()
	var doomed []*podConn
	for conn := range r.conns {
		if rule.covers(conn.at) {
			doomed = append(doomed, conn)
		}
	}
	r.mu.Unlock()
	for _, conn := range doomed {
		conn.kill()
	}
	return len(doomed)
}
