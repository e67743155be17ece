package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// followEvery is how often a followed log file is looked at.
const followEvery = 50 * time.Millisecond

// serveLogs answers /containerLogs/{ns}/{pod}/{container} from a file.
func (n *node) serveLogs(w http.ResponseWriter, r *http.Request) {
	at := place{Namespace: r.PathValue("ns"), Pod: r.PathValue("pod")}
	query := r.URL.Query()
	rule, ok := n.reg.logAt(at, r.PathValue("container"))
	name := rule.File
	if query.Get("previous") == "true" {
		name = rule.Previous
	}
	if !ok || name == "" {
		http.Error(w, "no log is registered for this container", http.StatusNotFound)
		return
	}
	file, err := os.Open(name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer file.Close()
	whole, err := io.ReadAll(file)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if tail, err := strconv.Atoi(query.Get("tailLines")); err == nil {
		whole = lastLines(whole, tail)
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Transfer-Encoding", "chunked")
	if _, err := w.Write(whole); err == nil && query.Get("follow") == "true" {
		follow(w, r, file)
	}
}

// lastLines keeps the last n lines, the unfinished one included.
func lastLines(text []byte, n int) []byte {
	lines := bytes.SplitAfter(text, []byte("\n"))
	if len(lines[len(lines)-1]) == 0 {
		lines = lines[:len(lines)-1]
	}
	return bytes.Join(lines[max(0, len(lines)-n):], nil)
}

// follow sends what is appended until the client leaves.
func follow(w http.ResponseWriter, r *http.Request, file *os.File) {
	out := http.NewResponseController(w)
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	for {
		if _, err := io.Copy(w, file); err != nil {
			return
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}
