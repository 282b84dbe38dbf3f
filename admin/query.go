package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// parameters are those that a request may have, each with what reads its value. An error of that says what was expected.
type parameters []parameter

type parameter struct {
	name string
	read func(value string) error
}

// read reads the query string of a request.
func (known parameters) read(query string) error {
	given, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("the query string cannot be read: %w; expected e.g. ?limit=100", err)
	}
	for name, values := range given {
		if len(values) > 1 {
			return fmt.Errorf("%s is given %d times; expected once", name, len(values))
		}
		i := slices.IndexFunc(known, func(p parameter) bool { return p.name == name })
		if i < 0 {
			return fmt.Errorf("unknown parameter %q; expected %s", name, known)
		}
		if err := known[i].read(values[0]); err != nil {
			return err
		}
	}
	return nil
}

// String lists the names: "a, b or c".
func (known parameters) String() string {
	all := names(known, func(p parameter) string { return p.name })
	last := len(all) - 1
	return strings.Join(all[:last], ", ") + " or " + all[last]
}

// limitOf reads a number from 1 to most.
func limitOf(into *int, most int) parameter {
	return parameter{"limit", func(value string) (err error) {
		if *into, err = strconv.Atoi(value); err != nil || *into < 1 || *into > most {
			return fmt.Errorf("limit=%q; expected a number from 1 to %d, e.g. limit=100", value, most)
		}
		return nil
	}}
}

// oneOf reads one of the words known.
func oneOf(name string, into *string, known []string) parameter {
	return parameter{name, func(value string) error {
		if *into = value; !slices.Contains(known, value) {
			return fmt.Errorf("%s=%q; expected one of: %s", name, value, strings.Join(known, ", "))
		}
		return nil
	}}
}

func names[T any](list []T, name func(T) string) (all []string) {
	for _, v := range list {
		all = append(all, name(v))
	}
	return all
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // who hung up does not want it
}
