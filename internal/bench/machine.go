package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// saysItIs is what a program says about itself; empty if it does not.
func saysItIs(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// processor is the processor's name.
func processor() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

// machineBusy is the share of all processors that is in use over an interval.
func machineBusy(interval time.Duration) (float64, error) {
	busy0, all0, err := jiffies()
	if err != nil {
		return 0, err
	}
	time.Sleep(interval)
	busy1, all1, err := jiffies()
	if err != nil || all1 == all0 {
		return 0, err
	}
	return float64(busy1-busy0) / float64(all1-all0), nil
}

// jiffies reads the first line of /proc/stat: user, nice, system, idle, iowait and so on since the machine started.
func jiffies() (busy, all int64, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	fields := strings.Fields(line)
	if len(fields) < 6 {
		return 0, 0, errors.New("/proc/stat: too few fields")
	}
	for i, field := range fields[1:] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		all += n
		if i != 3 && i != 4 { // idle and iowait
			busy += n
		}
	}
	return busy, all, nil
}
