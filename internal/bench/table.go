package bench

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Sample is what one run of one way cost.
type Sample struct {
	Wall time.Duration
	CPU  time.Duration // of the client's processes, user and system
	RSS  int64         // bytes: the largest of the client's processes
}

// Comparison is the same work done in two ways, in turns.
type Comparison struct {
	Name         string
	Theirs, Ours []Sample
}

// row is the comparison's line of a table: medians, and how many times quicker ours is.
func (c Comparison) row() []string {
	wall, cpu := func(s Sample) time.Duration { return s.Wall }, func(s Sample) time.Duration { return s.CPU }
	rss := func(s Sample) int64 { return s.RSS }
	theirs, ours := median(c.Theirs, wall), median(c.Ours, wall)
	return []string{
		c.Name, milliseconds(theirs), milliseconds(ours), ratio(float64(theirs), float64(ours)),
		milliseconds(median(c.Theirs, cpu)), milliseconds(median(c.Ours, cpu)),
		megabytes(median(c.Theirs, rss)), megabytes(median(c.Ours, rss)),
	}
}

// median is the middle of what value takes from the samples; of an even number the upper middle; zero without samples.
func median[S any, V cmp.Ordered](samples []S, value func(S) V) V {
	values := make([]V, len(samples))
	for i, sample := range samples {
		values[i] = value(sample)
	}
	slices.Sort(values)
	if len(values) == 0 {
		var none V
		return none
	}
	return values[len(values)/2]
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
}

func megabytes(n int64) string { return fmt.Sprintf("%d MB", n>>20) }

func ratio(theirs, ours float64) string {
	if ours == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", theirs/ours)
}

// Table is one table of the report.
type Table struct {
	Title  string
	Note   string // a sentence or two on what was done
	Header []string
	Rows   [][]string
}

// comparisons is the table of several comparisons with the git command line.
func comparisons(title, note string, all ...Comparison) Table {
	table := Table{Title: title, Note: note, Header: []string{
		"repository", "git", "Gitsmith", "times quicker", "git CPU", "Gitsmith CPU", "git memory", "Gitsmith memory",
	}}
	for _, comparison := range all {
		table.Rows = append(table.Rows, comparison.row())
	}
	return table
}

// Write writes the table as Markdown with its columns aligned, so that a terminal shows it well too.
func (t Table) Write(out io.Writer) error {
	widths := make([]int, len(t.Header))
	for _, row := range append([][]string{t.Header}, t.Rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "## %s\n\n", t.Title)
	writeRow(&text, t.Header, widths)
	for i, width := range widths {
		mark := strings.Repeat("-", width+1) + ":" // numbers to the right
		if i == 0 {
			mark = strings.Repeat("-", width+2)
		}
		text.WriteString("|" + mark)
	}
	text.WriteString("|\n")
	for _, row := range t.Rows {
		writeRow(&text, row, widths)
	}
	if t.Note != "" {
		fmt.Fprintf(&text, "\n%s\n", t.Note)
	}
	text.WriteString("\n")
	_, err := io.WriteString(out, text.String())
	return err
}

func writeRow(text *strings.Builder, row []string, widths []int) {
	for i, cell := range row {
		space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if i == 0 {
			text.WriteString("| " + cell + space + " ")
		} else {
			text.WriteString("| " + space + cell + " ")
		}
	}
	text.WriteString("|\n")
}
