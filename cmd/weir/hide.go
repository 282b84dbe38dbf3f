package main

import (
	"regexp"
	"strings"
)

// hidePasswords overwrites the passwords on the process's own command line, which every user of the machine can read with ps. It
// returns the arguments as they were. Until it has run they can be read, so a file or the environment is the better place.
func hidePasswords(args []string) []string {
	kept := make([]string, len(args))
	for i, arg := range args {
		kept[i] = strings.Clone(arg)
		for _, p := range passwordsIn(arg) {
			overwrite(arg, p.from, p.to)
		}
	}
	return kept
}

// part of a text.
type part struct{ from, to int }

var passwordPlaces = []*regexp.Regexp{
	// In a URL: up to the last @, for one in the password may not have been encoded.
	regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^:@/?#\s]*:(.*)@`),
	// As a parameter, a pair, or a key of a caller of a storm.
	regexp.MustCompile(`(?i)(?:^|[\s&?,'"=])(?:ssl)?password\s*=\s*('(?:[^'\\]|\\.)*'?|[^\s&]*)`),
}

// passwordsIn finds the passwords of connection strings in an argument. Of a strange one it finds too much rather than too little.
func passwordsIn(arg string) (found []part) {
	for _, place := range passwordPlaces {
		for _, match := range place.FindAllStringSubmatchIndex(arg, -1) {
			if match[2] < match[3] {
				found = append(found, part{match[2], match[3]})
			}
		}
	}
	return found
}

// withoutPasswords is a text that may quote arguments, without their passwords.
func withoutPasswords(text string) string {
	out := []byte(text)
	for _, p := range passwordsIn(text) {
		for i := p.from; i < p.to; i++ {
			out[i] = '*'
		}
	}
	return string(out)
}
