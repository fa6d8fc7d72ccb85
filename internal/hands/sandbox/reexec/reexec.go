// Package reexec lets one binary be several programs: a process that was
// started under the name of an entry runs that entry instead of main. Engines
// register what runs inside their sandboxes. It may call no package of ours.
package reexec

import "os"

// entries are the programs inside this one, by argv[0]. Written only while
// packages are initialised.
var entries = map[string]func(){}

// Register makes run what a process called name does. Call it from init.
func Register(name string, run func()) {
	if _, taken := entries[name]; taken {
		panic("reexec: " + name + " is registered twice")
	}
	entries[name] = run
}

// MaybeRun runs the entry this process was started as, and then exits; it
// returns at once in a process started under any other name. It must come
// first in main and in TestMain.
func MaybeRun() {
	if run, ok := entries[os.Args[0]]; ok {
		run()
		os.Exit(0)
	}
}
