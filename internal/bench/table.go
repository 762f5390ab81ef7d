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
	Wall   time.Duration
	CPU    time.Duration // of the client's processes, user and system
	RSS    int64         // bytes: the largest of the client's processes
	Filled time.Duration // until nothing arrived any more for the tip cache; 0 where there is none
	Read   string        // how Gitsmith read the tip
	// Redis and Receiver are the processor time of the servers beside the worker; 0 where there are none.
	Redis, Receiver time.Duration
	Traffic
}

// Traffic is what a server was asked for.
type Traffic struct {
	Requests int64 `json:"requests"`
	Down     int64 `json:"down"` // bytes of the answers' bodies
}

// Row is one way of doing a work, as often as it was done.
type Row struct {
	Name    string
	Samples []Sample
	Bound   float64 // what Wall may be of the peer's; 0: any
	Memory  int64   // what RSS may be, in bytes; 0: any
}

func (r Row) wall() time.Duration {
	return median(r.Samples, func(s Sample) time.Duration { return s.Wall })
}

// rss is the most of any round.
func (r Row) rss() int64 {
	var most int64
	for _, sample := range r.Samples {
		most = max(most, sample.RSS)
	}
	return most
}

// cells is the row's line of a table: medians, the peak of all rounds, and its wall time as a part of the peer's.
func (r Row) cells(peer Row) []string {
	read := ""
	if len(r.Samples) > 0 {
		read = r.Samples[len(r.Samples)-1].Read
	}
	return []string{
		r.Name, milliseconds(r.wall()), ratio(r.wall(), peer.wall()), bound(r.Bound),
		milliseconds(median(r.Samples, func(s Sample) time.Duration { return s.CPU })), megabytes(r.rss()),
		fmt.Sprint(median(r.Samples, func(s Sample) int64 { return s.Requests })), kilobytes(median(r.Samples, func(s Sample) int64 { return s.Down })), read,
	}
}

// misses says which bounds the row does not keep.
func (r Row) misses(peer Row) []string {
	var missed []string
	if part := float64(r.wall()) / float64(peer.wall()); r.Bound > 0 && part > r.Bound {
		missed = append(missed, fmt.Sprintf("%s: %.3f of the peer's time, the bound is %.3f", r.Name, part, r.Bound))
	}
	if r.Memory > 0 && r.rss() > r.Memory {
		missed = append(missed, fmt.Sprintf("%s: %s, the bound is %s", r.Name, megabytes(r.rss()), megabytes(r.Memory)))
	}
	return missed
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

// megabytes are rounded up: nothing is shown smaller than it is.
func megabytes(n int64) string { return fmt.Sprintf("%d MB", (n+1e6-1)/1e6) }

func kilobytes(n int64) string { return fmt.Sprintf("%d kB", n/1000) }

func ratio(ours, peers time.Duration) string {
	if peers == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f", float64(ours)/float64(peers))
}

func bound(most float64) string {
	if most == 0 {
		return ""
	}
	return fmt.Sprintf("≤ %.3f", most)
}

// Table is one table of the report.
type Table struct {
	Title  string
	Note   string // a sentence or two on what was done
	Header []string
	Rows   [][]string
}

// comparison is the table of ways of one work, the peer of all first.
func comparison(title, note string, rows []Row) Table {
	table := Table{Title: title, Note: note, Header: []string{"way", "wall", "ratio", "bound", "client CPU", "peak RSS", "requests", "down", "read"}}
	var missed []string
	for _, row := range rows {
		table.Rows = append(table.Rows, row.cells(rows[0]))
		missed = append(missed, row.misses(rows[0])...)
	}
	verdict := "Every bound is kept."
	if len(missed) > 0 {
		verdict = "Not kept: " + strings.Join(missed, "; ") + "."
	}
	table.Note = strings.TrimSpace(note + "\n" + verdict)
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
	fmt.Fprintf(&text, "### %s\n\n", t.Title)
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
