package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long a guarded tree may take to end by itself.
const stopGrace = 2 * time.Second

// tieToParent asks the kernel to signal us when the thread that started us
// ends. The setting survives execve, but belongs to one thread: stay on it.
func tieToParent(sig syscall.Signal) error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(sig), 0, 0, 0); err != nil {
		return err
	}
	if os.Getppid() == 1 {
		return errors.New("the starting process is already gone")
	}
	return nil
}

// execTied becomes the given program, which dies with its starter.
func execTied(argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	if err := tieToParent(unix.SIGKILL); err != nil {
		return err
	}
	return syscall.Exec(path, argv, os.Environ())
}

// guard runs a program whose descendants may daemonize, and leaves none of
// them behind: orphans are reparented to us and killed at the end.
func guard(argv []string) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	if err := tieToParent(unix.SIGTERM); err != nil {
		return err
	}
	child := exec.Command(argv[0], argv[1:]...)
	child.Stdin, child.Stdout, child.Stderr = nil, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := child.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	select {
	case err := <-ended:
		killDescendants()
		return err
	case <-signals:
	}
	_ = child.Process.Signal(unix.SIGTERM)
	select {
	case <-ended:
	case <-time.After(stopGrace):
	}
	killDescendants()
	return nil
}

// killDescendants kills until nothing is left below us.
func killDescendants() {
	for {
		alive := descendants(os.Getpid())
		if len(alive) == 0 {
			return
		}
		for _, pid := range alive {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// descendants lists the living processes below root, zombies excluded.
func descendants(root int) []int {
	children := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The command name may hold spaces: fields start after its ')'.
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		parent, err := strconv.Atoi(fields[1])
		if err == nil && fields[0] != "Z" {
			children[parent] = append(children[parent], pid)
		}
	}
	var found []int
	for queue := children[root]; len(queue) > 0; queue = queue[1:] {
		found = append(found, queue[0])
		queue = append(queue, children[queue[0]]...)
	}
	return found
}
