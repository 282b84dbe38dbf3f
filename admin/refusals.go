package admin

import (
	"net/http"

	"github.com/weirproxy/weir/proxy"
)

// How many refusals an answer lists.
const (
	usualRefusals = 100
	mostRefusals  = proxy.RememberedRefusals
)

// refusalList is the answer.
type refusalList struct {
	Refusals []proxy.RefusalRecord `json:"refusals"`
}

// refusalFilter says which refusals are wanted. Empty fields ask for all.
type refusalFilter struct {
	id, resource, reason, caller, mode string
	limit                              int
}

func (f *refusalFilter) fits(r *proxy.RefusalRecord) bool {
	for _, field := range [][2]string{{f.id, r.ID}, {f.resource, r.Resource}, {f.reason, r.Reason}, {f.caller, r.Caller}, {f.mode, r.Mode}} {
		if field[0] != "" && field[0] != field[1] {
			return false
		}
	}
	return true
}

// refusalsHandler lists the last refusals, the newest first.
func refusalsHandler(opts Options) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f := refusalFilter{limit: usualRefusals}
		anything := func(name string, into *string) parameter {
			return parameter{name, func(value string) error { *into = value; return nil }}
		}
		err := parameters{
			anything("id", &f.id),
			oneOf("resource", &f.resource, names(opts.Stats().Resources, func(r proxy.ResourceStats) string { return r.Name })),
			oneOf("reason", &f.reason, names(proxy.Reasons, func(r *proxy.Reason) string { return r.Label })),
			anything("caller", &f.caller),
			oneOf("mode", &f.mode, []string{"enforce", "shadow"}),
			limitOf(&f.limit, mostRefusals),
		}.read(r.URL.RawQuery)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		list := opts.Refusals.Last(f.limit, f.fits)
		if list == nil {
			list = []proxy.RefusalRecord{}
		}
		answer(w, refusalList{list})
	}
}
