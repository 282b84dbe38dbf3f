package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong with a configuration, or worth a warning, and where.
//
// No part of it ever holds a secret: values that came from ${…}, passwords, tokens and DSNs are never quoted.
type Problem struct {
	File    string // as the operator named it
	Line    int    // 1 is the first; 0 when no line is to blame
	Column  int    // 1 is the first
	Path    string // resources.orders.callers[0].match.user; empty for the file as a whole
	Message string // what is wrong; expected …; e.g. …
}

// String is `file:line:column: path: message`, without what is not known.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems is everything that is wrong with one configuration, in the order of its lines. It is the error of Load.
type Problems []Problem

// Error lists the problems, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (ps Problems) sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Path, b.Path))
	})
	return ps
}

// join appends a key to a path, in quotes where its own dots or blanks would mislead.
func join(path, key string) string {
	if !plainKey(key) {
		key = strconv.Quote(short(key))
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func plainKey(key string) bool {
	for _, r := range key {
		if r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return false
		}
	}
	return key != "" && len(key) <= longest
}

// longest is how much of what an operator wrote is quoted back.
const longest = 63

func short(text string) string {
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "…"
}

// nearest finds the candidate that was probably meant, or "".
func nearest(written string, candidates []string) string {
	best, distance := "", max(1, len(written)/3)+1
	if len(written) > longest {
		return ""
	}
	for _, c := range candidates {
		if fold(c) == fold(written) {
			return c
		}
		if d := edits(written, c); d < distance && d < len(c) {
			best, distance = c, d
		}
	}
	return best
}

// fold makes perSecond, per-second and per_second the same.
func fold(key string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(key))
}

// edits counts the letters to insert, drop, change or swap with their neighbour to get from a to b.
func edits(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			differs := 1
			if a[i-1] == b[j-1] {
				differs = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+differs)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
