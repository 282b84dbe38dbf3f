package main

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weirproxy/weir/storm"
)

// watchEvery is how often weir is asked for its limit.
const watchEvery = 100 * time.Millisecond

// watched is a storm during which weir is asked for its limit.
func (st *stage) watched(ctx context.Context, c contender, plan storm.Plan, began func(time.Time)) (observed, gauge, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var watching sync.WaitGroup
	var w watcher
	if c.admin != "" {
		watching.Go(func() { w.watch(ctx, c.admin) })
	}
	o, err := st.unleash(ctx, c, plan, began)
	stop()
	watching.Wait()
	if err != nil {
		return o, gauge{}, err
	}
	g := gauge{value: w.values}
	for _, at := range w.at {
		g.at = append(g.at, at.Sub(o.Began))
	}
	return o, g, nil
}

// watcher reads weir_limit over and over.
type watcher struct {
	at     []time.Time
	values []float64
}

func (w *watcher) watch(ctx context.Context, admin string) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if limit, err := readMetric(ctx, admin, "weir_limit"); err == nil {
			w.at, w.values = append(w.at, time.Now()), append(w.values, limit)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// readMetric asks a weir for the first value of a metric.
func readMetric(ctx context.Context, admin, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	value, found := math.NaN(), false
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() { // to the end, so that the connection can be used again
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, name); ok && !found && strings.HasPrefix(rest, "{") {
			value, err = strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			found = err == nil
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	if !found {
		return 0, fmt.Errorf("http://%s/metrics has no %s", admin, name)
	}
	return value, nil
}
