package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// environmentName is the variable that stands for a flag.
func environmentName(flag string) string {
	return "HEARTH_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// flagsFromEnvironment sets each flag that the command line left alone from its
// variable. An empty variable counts as absent.
func flagsFromEnvironment(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := environmentName(f.Name)
		value := os.Getenv(name)
		if f.Changed || value == "" || f.Name == "help" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		fromEnvironment = append(fromEnvironment, f.Name)
	})
	if err := errors.Join(errs...); err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	return nil
}

// fromEnvironment are the flags of this process that were set from their variables.
var fromEnvironment []string

// origins says of the flags that a text names which variables they were set from.
func origins(text string) (note string) {
	for _, flag := range fromEnvironment {
		if regexp.MustCompile(`--` + regexp.QuoteMeta(flag) + `($|[^a-z-])`).MatchString(text) {
			note += fmt.Sprintf(" (--%s is set by %s)", flag, environmentName(flag))
		}
	}
	return note
}

// choice is a flag that takes one of a few words. It refuses others when it is
// set, so that the error names the flag or the variable they came from.
type choice struct {
	value   *string
	allowed []string
}

// oneOf registers a choice. The value it has now is the default.
func oneOf(flags *pflag.FlagSet, value *string, name, shorthand, usage string, allowed ...string) {
	flags.VarP(choice{value, allowed}, name, shorthand, usage)
}

func (c choice) String() string {
	if c.value == nil {
		return "" // pflag asks the zero value too
	}
	return *c.value
}

func (c choice) Type() string { return "string" }

func (c choice) Set(word string) error {
	if !slices.Contains(c.allowed, word) {
		return fmt.Errorf("not one of %s", strings.Join(c.allowed, ", "))
	}
	*c.value = word
	return nil
}

// logFlags are those of every command that runs for long.
type logFlags struct{ level, format string }

func (l *logFlags) register(flags *pflag.FlagSet, level string) {
	l.level, l.format = level, "text"
	oneOf(flags, &l.level, "log-level", "", "what to log: debug, info, warn or error", "debug", "info", "warn", "error")
	oneOf(flags, &l.format, "log-format", "", "how to log: text or json", "text", "json")
}

func (l *logFlags) logger() *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.level)) // one of the words above
	options := &slog.HandlerOptions{Level: level}
	if l.format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// bound says of a flag whether its value can be meant, and what is wanted.
type bound struct {
	flag string
	good bool
	want string
}

// checkBounds refuses the first flag that is not within its bound.
func checkBounds(bounds []bound) error {
	for _, b := range bounds {
		if !b.good {
			return usageError("--%s: want %s", b.flag, b.want)
		}
	}
	return nil
}
