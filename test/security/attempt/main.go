// Command attempt makes one attempt to get out of a sandbox, or to take all
// there is of something. The tests of package security run it inside a sandbox
// and, where no harm comes of it, on the host, to see that it is the sandbox
// that stops it. It is small, so that it starts fast, and needs no other program.
//
//	attempt                  lists the attempts
//	attempt NAME [ARG...]    makes one
//	attempt hoard WHAT       takes until there is no more, and holds on to it
//	attempt take WHAT        takes one
package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
)

// try is an attempt; a nil error means that it has succeeded.
type try struct {
	name string
	// host tells that root may do it on a host and that nothing comes of it in
	// namespaces of its own.
	host bool
	do   func(args []string) error
}

// plain makes a try of what takes no arguments.
func plain(name string, host bool, do func() error) try {
	return try{name, host, func([]string) error { return do() }}
}

func main() {
	all := slices.Concat(walls, others, files, kernel, tables, machine, network, thefts)
	if len(os.Args) < 2 {
		for _, t := range all {
			fmt.Printf("%s\t%t\n", t.name, t.host)
		}
		return
	}
	if len(os.Args) == 3 && (os.Args[1] == "hoard" || os.Args[1] == "take") {
		hoard(os.Args[2], os.Args[1] == "take")
		return
	}
	i := slices.IndexFunc(all, func(t try) bool { return t.name == os.Args[1] })
	if i < 0 {
		fmt.Println("there is no such attempt")
		os.Exit(2)
	}
	if err := all[i].do(os.Args[2:]); err != nil {
		fmt.Println("held:", err)
		return
	}
	fmt.Println("ESCAPED")
}

var errNothing = errors.New("nothing came of it")
