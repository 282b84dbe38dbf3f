// Command weir is a proxy that keeps a database's load steady whatever storm of functions is upstream.
//
// Here are flags, wiring and exit codes, nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"
)

// Exit codes, for scripts and orchestrators.
const (
	exitOK      = 0
	exitFailure = 1 // something went wrong while running
	exitUsage   = 2 // the command line or the configuration is wrong; trying again will not help
)

type cli struct {
	Serve       serveCmd       `cmd:"" help:"Run the proxy."`
	Check       checkCmd       `cmd:"" help:"Say what is wrong with a configuration, all of it at once."`
	Storm       stormCmd       `cmd:"" help:"Let a storm of functions loose on a database or a pooler, and measure what becomes of them."`
	Demo        demoCmd        `cmd:"" help:"Show weir at work with a throwaway PostgreSQL; nothing to configure."`
	Healthcheck healthcheckCmd `cmd:"" help:"Ask a running weir whether it is alive; made for containers."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
}

const description = `Weir keeps a database's load steady whatever storm of functions is upstream.

Exit status: 0 when all went well, 1 when something failed, 2 when the command line or the configuration is wrong.`

// terminal is where a command writes: out for what it was asked for, err for everything else.
type terminal struct {
	out, err io.Writer
}

// say writes one line to out. Nobody is left to be told when that fails.
func (t terminal) say(format string, args ...any) { _, _ = fmt.Fprintf(t.out, format+"\n", args...) }

// complain writes one line to err.
func (t terminal) complain(format string, args ...any) {
	_, _ = fmt.Fprintf(t.err, format+"\n", args...)
}

func main() {
	os.Exit(run(context.Background(), hidePasswords(os.Args[1:]), os.Stdout, os.Stderr))
}

// run executes one command line and returns the exit code. The end of ctx is to serve and demo what SIGTERM is.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	term := terminal{stdout, stderr}
	helped := false
	parser, err := newParser(new(cli), kong.Writers(stdout, stderr), kong.Exit(func(int) { helped = true }))
	if err != nil {
		panic(err) // the tags of cli are wrong: no command line can change that
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if helped {
		return exitOK
	}
	if err != nil {
		term.complain("weir: %s\nRun \"weir --help\" to see what is possible.", withoutPasswords(err.Error()))
		return exitUsage
	}
	command.BindTo(ctx, (*context.Context)(nil))
	return term.report(command.Run(term))
}

func newParser(grammar *cli, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(grammar, append(options,
		kong.Name("weir"),
		kong.Description(description),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
	)...)
}

// errReported ends a command whose complaint is already on the terminal.
type errReported struct{ code int }

func (errReported) Error() string { return "reported" }

// usageError is a mistake in what the operator wrote.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// report says what went wrong, and returns the exit code for it.
func (t terminal) report(err error) int {
	var reported errReported
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &reported):
		return reported.code
	case errors.As(err, &usage):
		t.complain("weir: %v", err)
		return exitUsage
	}
	t.complain("weir: %v", err)
	return exitFailure
}
