// Command node is the node side of the test control plane: the streaming
// endpoint a kubelet would serve (port-forward, exec, logs) with switchable
// copy behaviour and faults, plus two small process launchers.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: node serve|exec|guard ..."))
	}
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2:])
	case "exec":
		err = execTied(os.Args[2:])
	case "guard":
		err = guard(os.Args[2:])
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "node:", err)
	os.Exit(1)
}
