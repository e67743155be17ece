package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
	remotecommand "k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// runOnTerminal runs a process on a new terminal of its own, whose size
// follows the client's.
func runOnTerminal(command *exec.Cmd, in io.Reader, out io.Writer, sizes <-chan remotecommand.TerminalSize) error {
	here, there, err := openTerminal()
	if err != nil {
		return err
	}
	defer here.Close()
	command.Stdin, command.Stdout, command.Stderr = there, there, there
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	resize := func(size remotecommand.TerminalSize) {
		window := &unix.Winsize{Row: size.Height, Col: size.Width}
		_ = unix.IoctlSetWinsize(int(here.Fd()), unix.TIOCSWINSZ, window)
	}
	go func() {
		for size := range sizes {
			resize(size)
		}
	}()
	err = command.Start()
	there.Close()
	if err != nil {
		return err
	}
	if in != nil {
		go func() { _, _ = io.Copy(here, in) }()
	}
	// Reading ends with an error once nobody holds the other end.
	_, _ = io.Copy(out, here)
	return told(command.Wait())
}

// openTerminal opens both ends of a new pseudo-terminal.
func openTerminal() (here, there *os.File, err error) {
	here, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetInt(int(here.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(here.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		there, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		here.Close()
		return nil, nil, err
	}
	return here, there, nil
}
