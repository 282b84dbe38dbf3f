package admin

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
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
		answer(w, sessionList{list, more})
	}
}

// readFilter reads the parameters of a request. An error says what was expected.
func readFilter(query string, resources []proxy.ResourceStats) (filter proxy.SessionFilter, err error) {
	filter.Limit = usualSessions
	return filter, parameters{
		oneOf("resource", &filter.Resource, names(resources, func(r proxy.ResourceStats) string { return r.Name })),
		oneOf("state", &filter.State, names(proxy.SessionStates, func(s proxy.Term) string { return s.Name })),
		limitOf(&filter.Limit, mostSessions),
	}.read(query)
}
