package main

import (
	"runtime"
	"runtime/debug"
)

// version is set by releases: -ldflags "-X main.version=v1.2.3".
var version string

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(term terminal) error {
	term.say("weir %s (%s, %s/%s)", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

// buildVersion is the release, or what the Go toolchain knows about where the source came from.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
