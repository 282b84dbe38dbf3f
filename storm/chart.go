package storm

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// The drawing is in units of an SVG's viewBox, small enough that its text can be read on a phone.
const (
	chartWidth  = 480.0
	chartHeight = 230.0
	plotLeft    = 52.0
	plotRight   = chartWidth - 18
	plotTop     = 10.0
	plotBottom  = chartHeight - 26
	mostPoints  = 240 // of a line
)

// chart is a picture for the report's template: paths and positions, no sizes of text and no colours.
type chart struct {
	Title, Note    string
	Lines          []chartLine
	Bars           []chartBar
	Marks          []chartMark // vertical lines
	XTicks, YTicks []chartTick
	Empty          bool
}

type chartLine struct {
	Name, Class string
	Path        string // of the line
	Area        string // below it; empty: none
}

type chartBar struct{ X, Y, Width, Height float64 }

type chartMark struct {
	Label string
	X     float64
	Row   float64 // where its label is, so that labels do not cover each other
	Left  bool    // of the line, where there is no room on the right
}

type chartTick struct {
	Label string
	At    float64
}

// curve is one line of a chart over time.
type curve struct {
	name, class string
	values      []float64 // one a step; NaN leaves a gap
	area        bool
}

// axis maps values to positions.
type axis struct {
	low, high float64 // values
	from, to  float64 // positions
	log       bool
}

func (a axis) at(v float64) float64 {
	low, high := a.low, a.high
	if a.log {
		v, low, high = math.Log(max(v, a.low)), math.Log(low), math.Log(high)
	}
	if high == low {
		return a.from
	}
	share := min(1, max(0, (v-low)/(high-low)))
	return math.Round(10*(a.from+share*(a.to-a.from))) / 10
}

// timeChart draws curves over time; log is the scale of the values.
func timeChart(title, note string, stepSeconds float64, log bool, curves []curve) chart {
	c := chart{Title: title, Note: note}
	steps, low, high := 0, math.Inf(1), 0.0
	for _, cv := range curves {
		steps = max(steps, len(cv.values))
		for _, v := range cv.values {
			if !math.IsNaN(v) && (!log || v > 0) {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	if steps == 0 || high == 0 {
		c.Empty = true
		return c
	}
	x := axis{0, float64(steps) * stepSeconds, plotLeft, plotRight, false}
	y := axis{0, 0, plotBottom, plotTop, log}
	if log {
		y.low, y.high = logBounds(low, high)
		c.YTicks = logTicks(y, 10)
	} else {
		c.YTicks, y.high = linearTicks(y, high, "")
	}
	xStep := niceStep(x.high / 6)
	for v := 0.0; v <= x.high*1.001; v += xStep {
		c.XTicks = append(c.XTicks, chartTick{number(v) + " s", x.at(v)})
	}
	for _, cv := range curves {
		line := chartLine{Name: cv.name, Class: cv.class}
		line.Path, line.Area = path(cv, stepSeconds, x, y)
		if !cv.area {
			line.Area = ""
		}
		c.Lines = append(c.Lines, line)
	}
	return c
}

// path is a line through the middle of each step, and the outline of what is below.
func path(cv curve, stepSeconds float64, x, y axis) (line, area string) {
	var b, below strings.Builder
	pen := false
	first, last := 0.0, 0.0
	for i, v := range cv.values {
		if math.IsNaN(v) {
			pen = false
			continue
		}
		px, py := x.at((float64(i)+0.5)*stepSeconds), y.at(v)
		if pen {
			fmt.Fprintf(&b, "L%s %s", number(px), number(py))
		} else {
			fmt.Fprintf(&b, "M%s %sh0", number(px), number(py)) // a dot, in case nothing follows
		}
		if below.Len() == 0 {
			first = px
			fmt.Fprintf(&below, "M%s %s", number(px), number(plotBottom))
		}
		fmt.Fprintf(&below, "L%s %s", number(px), number(py))
		pen, last = true, px
	}
	if below.Len() > 0 {
		fmt.Fprintf(&below, "L%s %sL%s %sZ", number(last), number(plotBottom), number(first), number(plotBottom))
	}
	return b.String(), below.String()
}

// distributionChart draws bars whose width is that of their range on a logarithmic scale.
func distributionChart(bars []Bar, q Quantiles) chart {
	c := chart{Title: "How the latency of the good is distributed", Note: "share of functions by latency; both dashed lines are quantiles"}
	if len(bars) == 0 {
		c.Empty = true
		return c
	}
	var total, most uint64
	for _, bar := range bars {
		total += bar.Count
		most = max(most, bar.Count)
	}
	x := axis{max(bars[0].FromMs, 0.001), bars[len(bars)-1].ToMs, plotLeft, plotRight, true}
	x.low, x.high = x.low/1.2, x.high*1.2
	y := axis{0, 0, plotBottom, plotTop, false}
	c.YTicks, y.high = linearTicks(y, 100*float64(most)/float64(total), " %")
	for _, tick := range logTicks(x, 6) {
		c.XTicks = append(c.XTicks, chartTick{tick.Label + " ms", tick.At})
	}
	for _, bar := range bars {
		left, right, top := x.at(max(bar.FromMs, 0.001)), x.at(bar.ToMs), y.at(100*float64(bar.Count)/float64(total))
		if bar.Count > 0 {
			c.Bars = append(c.Bars, chartBar{left, top, round(max(0.5, right-left-1)), round(plotBottom - top)})
		}
	}
	for i, mark := range []chartMark{{Label: "p50", X: x.at(q.P50)}, {Label: "p99", X: x.at(q.P99)}} {
		mark.Row, mark.Left = plotTop+10+12*float64(i), mark.X > plotRight-40
		c.Marks = append(c.Marks, mark)
	}
	return c
}

func round(v float64) float64 { return math.Round(10*v) / 10 }

// number is a float without the digits that mean nothing here.
func number(v float64) string { return strconv.FormatFloat(round(v), 'f', -1, 64) }

// niceStep is 1, 2 or 5 times a power of ten, at least v.
func niceStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v*0.999 {
			return m * power
		}
	}
	return 10 * power
}

func linearTicks(y axis, high float64, unit string) (ticks []chartTick, top float64) {
	step := niceStep(high / 4)
	top = step * math.Ceil(high/step-1e-9)
	y.high = top
	for v := 0.0; v <= top*1.001; v += step {
		ticks = append(ticks, chartTick{short(v) + unit, y.at(v)})
	}
	return ticks, top
}

// logBounds are the powers of ten around.
func logBounds(low, high float64) (float64, float64) {
	down := math.Pow(10, math.Floor(math.Log10(low)))
	up := math.Pow(10, math.Ceil(math.Log10(high)+1e-9))
	return down, max(up, 10*down)
}

// logTicks are as many as there is room for.
func logTicks(a axis, most int) []chartTick {
	for _, multiples := range [][]float64{{1, 2, 5}, {1, 3}, {1}} {
		var ticks []chartTick
		for power := math.Pow(10, math.Floor(math.Log10(a.low))); power <= a.high; power *= 10 {
			for _, m := range multiples {
				if v := m * power; v >= a.low*0.999 && v <= a.high*1.001 {
					ticks = append(ticks, chartTick{short(v), a.at(v)})
				}
			}
		}
		if len(ticks) <= most {
			return ticks
		}
	}
	return nil
}

// short writes 12000 as 12k.
func short(v float64) string {
	digits := func(v float64) string { return strconv.FormatFloat(math.Round(1000*v)/1000, 'f', -1, 64) }
	switch {
	case v >= 1e6:
		return digits(v/1e6) + "M"
	case v >= 10_000:
		return digits(v/1e3) + "k"
	}
	return digits(v)
}

// fold puts neighbouring steps of a series together until it fits a chart, and returns how many went into one.
func fold(steps int) int { return max(1, (steps+mostPoints-1)/mostPoints) }

// rates turns counts into values per second.
func rates[N uint32 | int64](counts []N, every int, stepSeconds float64) []float64 {
	var out []float64
	for i := 0; i < len(counts); i += every {
		sum := 0.0
		part := counts[i:min(i+every, len(counts))]
		for _, n := range part {
			sum += float64(n)
		}
		out = append(out, sum/(float64(len(part))*stepSeconds))
	}
	return out
}

// peaks keeps the highest of neighbouring values; where there is none, there is a gap.
func peaks[N int64 | float64](values []N, every int, gaps bool) []float64 {
	var out []float64
	for i := 0; i < len(values); i += every {
		top := 0.0
		for _, v := range values[i:min(i+every, len(values))] {
			top = max(top, float64(v))
		}
		if gaps && top == 0 {
			top = math.NaN()
		}
		out = append(out, top)
	}
	return out
}
