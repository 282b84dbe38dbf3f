package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirproxy/weir/proxy"
)

// How many sessions an answer lists, and how long it may take to find them.
const (
	usualSessions = 1000
	mostSessions  = 10000
	sessionsTime  = 5 * time.Second
)

// sessionsAtOnce bounds the requests for sessions that are served at the same time: each has the event loops do something.
const sessionsAtOnce = 3

// sessionList is the answer.
type sessionList struct {
	Sessions  []proxy.Session `json:"sessions"`
	Truncated bool            `json:"truncated"` // there are more than the limit
}

// sessionsHandler lists clients one by one, those that have been in their state for longest first.
func sessionsHandler(opts Options) http.HandlerFunc {
	places := make(chan struct{}, sessionsAtOnce)
	return func(w http.ResponseWriter, r *http.Request) {
		filter, err := readFilter(r.URL.RawQuery, opts.Stats().Resources)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ctx, stop := context.WithTimeout(r.Context(), sessionsTime)
		defer stop()
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		case <-ctx.Done():
			http.Error(w, fmt.Sprintf("others ask for sessions, too: no turn within %v", sessionsTime), http.StatusServiceUnavailable)
			return
		}
		list, more, err := opts.Sessions(ctx, filter)
		if err != nil {
			http.Error(w, fmt.Sprintf("the event loops have not answered within %v", sessionsTime), http.StatusServiceUnavailable)
			return
		}
		slices.SortFunc(list, func(a, b proxy.Session) int {
			return cmp.Or(cmp.Compare(b.StateMillis, a.StateMillis), cmp.Compare(a.ID, b.ID))
		})
		if list == nil {
			list = []proxy.Session{}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(sessionList{list, more}) // who hung up does not want it
	}
}

// readFilter reads the parameters of a request. An error says what was expected.
func readFilter(query string, resources []proxy.ResourceStats) (filter proxy.SessionFilter, err error) {
	parameters, err := url.ParseQuery(query)
	if err != nil {
		return filter, fmt.Errorf("the query string cannot be read: %w; expected e.g. ?state=pinned&limit=100", err)
	}
	filter.Limit = usualSessions
	for name, values := range parameters {
		if len(values) > 1 {
			return filter, fmt.Errorf("%s is given %d times; expected once", name, len(values))
		}
		value := values[0]
		switch name {
		case "resource":
			filter.Resource = value
			err = oneOf(name, value, names(resources, func(r proxy.ResourceStats) string { return r.Name }))
		case "state":
			filter.State = value
			err = oneOf(name, value, names(proxy.SessionStates, func(s proxy.Term) string { return s.Name }))
		case "limit":
			if filter.Limit, err = strconv.Atoi(value); err != nil || filter.Limit < 1 || filter.Limit > mostSessions {
				err = fmt.Errorf("limit=%q; expected a number from 1 to %d, e.g. limit=100", value, mostSessions)
			}
		default:
			err = fmt.Errorf("unknown parameter %q; expected resource, state or limit", name)
		}
		if err != nil {
			return filter, err
		}
	}
	return filter, nil
}

func names[T any](list []T, name func(T) string) (all []string) {
	for _, v := range list {
		all = append(all, name(v))
	}
	return all
}

func oneOf(parameter, value string, known []string) error {
	if slices.Contains(known, value) {
		return nil
	}
	return fmt.Errorf("%s=%q; expected one of: %s", parameter, value, strings.Join(known, ", "))
}
