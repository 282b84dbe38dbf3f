package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/weirproxy/weir/internal/golden"
)

func TestReferencePageIsUpToDate(t *testing.T) {
	parser, err := newParser(new(cli))
	if err != nil {
		t.Fatal(err)
	}
	var page strings.Builder
	page.WriteString("<!-- Generated from the command line's own description: go test ./cmd/weir -update -->\n\n# Command line\n\n```\n")
	for _, command := range parser.Model.Children {
		fmt.Fprintf(&page, "weir %-12s %s\n", command.Name, command.Help)
	}
	page.WriteString("```\n\n## Exit status\n\n| code | meaning |\n|---|---|\n")
	for _, code := range []struct {
		code    int
		meaning string
	}{
		{exitOK, "all went well"},
		{exitFailure, "something failed while running"},
		{exitUsage, "the command line or the configuration is wrong; trying again will not help"},
	} {
		fmt.Fprintf(&page, "| %d | %s |\n", code.code, code.meaning)
	}
	for _, command := range parser.Model.Children {
		writeCommand(&page, command)
	}
	golden.Compare(t, "../../docs/reference/command-line.md", page.String())
}

func writeCommand(page *strings.Builder, command *kong.Node) {
	fmt.Fprintf(page, "\n## weir %s\n\n%s\n", command.Name, command.Help)
	if command.Detail != "" {
		fmt.Fprintf(page, "\n%s\n", strings.TrimSpace(command.Detail))
	}
	if len(command.Flags) == 0 {
		return
	}
	page.WriteString("\n| flag | meaning |\n|---|---|\n")
	for _, flag := range command.Flags {
		name := "--" + flag.Name
		if !flag.IsBool() {
			name += "=" + flag.FormatPlaceHolder()
		}
		help := flag.Help
		if len(flag.Envs) > 0 {
			help += " Environment: `" + strings.Join(flag.Envs, "`, `") + "`."
		}
		fmt.Fprintf(page, "| `%s` | %s |\n", name, help)
	}
}
