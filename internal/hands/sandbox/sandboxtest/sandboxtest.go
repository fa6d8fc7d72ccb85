// Package sandboxtest is the suite every sandbox engine must pass. An engine's
// own test package names a Maker, calls MaybeRun first thing in TestMain, and
// runs Exercise; an engine that claims to isolate also runs ExerciseIsolation.
// The suite works through the sandbox contract alone, and looks at the host
// only to see what a sandbox left there. It owns nothing that outlives a test
// and may call packages sandbox and hand.
package sandboxtest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"hearth/internal/hands/sandbox"
)

// Maker makes an engine that keeps its state under stateDir. The tests of a
// killed owner call it in a second process too, on the same directory.
type Maker func(stateDir string) sandbox.Engine

// The roles a test binary can be started in, as its first argument.
const (
	roleOwner = "sandboxtest-owner"
	roleProbe = "sandboxtest-probe"
)

// MaybeRun takes over, and never returns, when this process was started by the
// suite to own a sandbox or to probe one from inside. Call it first
// thing in TestMain.
func MaybeRun(newEngine Maker) {
	if len(os.Args) < 2 {
		return
	}
	var err error
	switch os.Args[1] {
	case roleOwner:
		err = runOwner(newEngine, os.Args[2:])
	case roleProbe:
		err = runProbe(os.Args[2:])
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Exercise runs the suite of the contract. It skips, with the engine's own
// words, where Check says the engine cannot work.
func Exercise(t *testing.T, newEngine Maker) { run(t, newEngine, contract()) }

func contract() []scenario {
	return []scenario{
		{"bash", testBash},
		{"bash keeps its state", testBashState},
		{"bash survives what is done to it", testBashSurvives},
		{"bash output", testBashOutput},
		{"bash timeout", testBashTimeout},
		{"bash cancel", testBashCancel},
		{"bash calls take turns", testBashTakesTurns},
		{"read", testRead},
		{"write", testWrite},
		{"edit", testEdit},
		{"glob", testGlob},
		{"grep", testGrep},
		{"bad calls", testBadCalls},
		{"hostile names", testHostileNames},
		{"confinement", testConfinement},
		{"confinement under a race", testConfinementRace},
		{"many calls at once", testManyCalls},
		{"terminal", testTerminal},
		{"volume", testVolume},
		{"time and signals", testTimeAndSignals},
		{"environment", testEnvironment},
		{"workdir", testWorkdir},
		{"identity", testIdentity},
		{"limits", testLimits},
		{"many sandboxes at once", testManySandboxes},
		{"creating thread ends", testCreatingThreadEnds},
		{"destroy", testDestroy},
		{"hand dies", testHandDies},
		{"owner killed", testOwnerKilled},
	}
}

// ExerciseIsolation runs what only an engine that isolates can pass: that a
// sandbox sees, reaches and harms neither its host nor another sandbox.
//
// Some of it would hurt the host of an engine that isolates nothing, so it
// stops at once where the sandbox shares a namespace with this process.
func ExerciseIsolation(t *testing.T, newEngine Maker) {
	if !t.Run("namespaces", func(t *testing.T) { testOwnNamespaces(t, newEngine) }) {
		t.FailNow()
	}
	run(t, newEngine, isolation())
}

func isolation() []scenario {
	return []scenario{
		{"processes", testIsolatedProcesses},
		{"host files hidden", testHostFilesHidden},
		{"host files not written", testHostFilesNotWritten},
		{"install", testInstall},
		{"worker environment hidden", testWorkerEnvironmentHidden},
		{"network", testNoNetwork},
		{"privileges", testPrivileges},
		{"denied system calls", testDeniedSyscalls},
		{"foreign system call tables", testForeignSyscallTables},
		{"devices", testDevices},
		{"kernel interfaces", testKernelInterfaces},
		{"setuid files in the workdir", testWorkdirSetuid},
		{"the host's users", testHostUserStays},
		{"killing everything", testKillEverything},
		{"orphans are reaped", testOrphansReaped},
		{"process limit", testProcessLimit},
		{"scratch that resists removal", testStubbornScratch},
		{"owner killed", testIsolatedOwnerKilled},
	}
}

// ExerciseSome runs the scenarios of those names, of Exercise and of
// ExerciseIsolation, for an engine that would take too long for all of them every
// day.
func ExerciseSome(t *testing.T, newEngine Maker, names ...string) {
	var chosen []scenario
	for _, name := range names {
		before := len(chosen)
		for _, s := range append(contract(), isolation()...) {
			if s.name == name {
				chosen = append(chosen, s)
			}
		}
		if len(chosen) == before {
			t.Errorf("there is no scenario %q", name)
		}
	}
	run(t, newEngine, chosen)
}

type scenario struct {
	name string
	test func(t *testing.T, newEngine Maker)
}

func run(t *testing.T, newEngine Maker, scenarios []scenario) {
	if err := newEngine(t.TempDir()).Check(t.Context()); err != nil {
		t.Skip(err)
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			if !strings.Contains(s.name, "environment") { // those change our own
				t.Parallel()
			}
			s.test(t, newEngine)
		})
	}
}
