package storm

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"time"
	"unicode/utf8"
)

// Picture is a line chart in an SVG file of its own, for documents. It brings its own paper, light or dark as the reader has it.
type Picture struct {
	Title, Note string
	Step        time.Duration // between two values of a curve
	Labels      []string      // what each value is about, instead of a time
	Curves      []Curve       // at most six
}

// Curve is one line of a Picture.
type Curve struct {
	Name   string
	Values []float64 // NaN leaves a gap
	Colour int       // 1 to 6, for who is in several pictures; 0: by its place
}

//go:embed picture.svg
var pictureFile string

var pictureTemplate = template.Must(template.New("picture").Funcs(template.FuncMap{"numbers": chartNumbers}).Parse(pictureFile))

// The head of a picture holds its title, its note, and the names of its lines in as many rows as they need.
const (
	titleRow   = 22.0
	noteRow    = 38.0
	firstRow   = 56.0
	rowHeight  = 16.0
	letter     = 6.4 // how wide one is, about
	keyAndRoom = 36.0
)

type pictureView struct {
	chart
	Keys              []pictureKey
	TitleRow, NoteRow float64
	Head, Height      float64
}

type pictureKey struct {
	Name, Class string
	X, Y        float64
}

// WriteSVG draws the picture.
func (p Picture) WriteSVG(w io.Writer) error {
	v := pictureView{chart: p.chart(), TitleRow: titleRow, NoteRow: noteRow}
	x, y := 10.0, firstRow
	for _, line := range v.Lines {
		width := keyAndRoom + letter*float64(utf8.RuneCountInString(line.Name))
		if x > 10 && x+width > chartWidth {
			x, y = 10, y+rowHeight
		}
		v.Keys = append(v.Keys, pictureKey{line.Name, line.Class, x, y})
		x += width
	}
	v.Head = y + 6
	v.Height = v.Head + chartHeight
	return pictureTemplate.Execute(w, v)
}

func (p Picture) chart() chart {
	steps := 0
	for _, c := range p.Curves {
		steps = max(steps, len(c.Values))
	}
	every, seconds := fold(steps), p.Step.Seconds()
	if len(p.Labels) > 0 {
		every, seconds = 1, 1
	}
	var curves []curve
	for i, c := range p.Curves {
		colour := (cmp.Or(c.Colour, i+1) - 1) % 6
		curves = append(curves, curve{name: c.Name, class: fmt.Sprintf("t%d", colour), values: means(c.Values, every)})
	}
	c := timeChart(p.Title, p.Note, seconds*float64(every), false, curves)
	if len(p.Labels) > 0 {
		c.XTicks = nil
		x := axis{from: plotLeft, to: plotRight, high: float64(steps)}
		for i, label := range p.Labels {
			c.XTicks = append(c.XTicks, chartTick{label, x.at(float64(i) + 0.5)})
		}
	}
	for i := range c.XTicks { // the last one must not run off the paper
		c.XTicks[i].At = min(c.XTicks[i].At, chartWidth-2.5*letter)
	}
	return c
}

// means puts neighbouring values into one; a gap among them does not count.
func means(values []float64, every int) []float64 {
	var out []float64
	for i := 0; i < len(values); i += every {
		sum, n := 0.0, 0.0
		for _, v := range values[i:min(i+every, len(values))] {
			if !math.IsNaN(v) {
				sum += v
				n++
			}
		}
		out = append(out, sum/n) // NaN where there is nothing
	}
	return out
}
