package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
)

const onDisk, inMemory = "on disk", "in memory"

// Result is a work of one size in one place, done in all ways.
type Result struct {
	Kind, Size, Place string
	Day               string
	Note              string
	Rows              []Row
}

func (r Result) title() string {
	if r.Size == "" {
		return r.Kind
	}
	return fmt.Sprintf("%s, %s, %s", r.Kind, r.Size, r.Place)
}

func (r Result) row(name string) (Row, bool) {
	if i := slices.IndexFunc(r.Rows, func(row Row) bool { return row.Name == name }); i >= 0 {
		return r.Rows[i], true
	}
	return Row{}, false
}

// results are the newest of each kind, size and place that were measured on this machine.
type results struct {
	file    string
	Machine string
	All     []Result
}

func openResults(file, machine string) (*results, error) {
	kept := &results{}
	content, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(content, kept)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if kept.Machine != machine {
		kept.All = nil
	}
	kept.file, kept.Machine = file, machine
	return kept, nil
}

// keep prints results and takes them in the place of earlier ones, if they are of all rows.
func (k *results) keep(tb testing.TB, measured ...Result) {
	tb.Helper()
	for _, result := range measured {
		var text strings.Builder
		_ = comparison(result.title(), result.Note, result.Rows).Write(&text) // into memory
		fmt.Printf("\n%s", text.String())
		k.put(result)
	}
	if os.Getenv(rowsVariable) != "" {
		return
	}
	content, err := json.MarshalIndent(k, "", "\t")
	if err == nil {
		err = os.WriteFile(k.file, append(content, '\n'), 0o644)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// put sorts a result in: pushes and archives by place and size, then the rest.
func (k *results) put(result Result) {
	k.All = slices.DeleteFunc(k.All, func(old Result) bool { return old.title() == result.title() })
	k.All = append(k.All, result)
	order := func(r Result) int {
		at := slices.Index([]string{"small", "medium", "large", ""}, r.Size)
		if r.Place == inMemory {
			at += 4
		}
		if r.Size == "" {
			at = 99
		}
		return at
	}
	slices.SortStableFunc(k.All, func(a, b Result) int { return order(a) - order(b) })
}

// tables are the bounds, then everything.
func (k *results) tables() []Table {
	tables := []Table{k.bounds()}
	for _, result := range k.All {
		note := fmt.Sprintf("%s, %d rounds. %s", result.Day, len(result.Rows[0].Samples), result.Note)
		tables = append(tables, comparison(result.title(), strings.TrimSpace(note), result.Rows))
	}
	return tables
}

// shown is a bound's line: the limits are those of the sizes small, medium and large.
type shown struct {
	name, kind, place, row string
	limits                 [3]float64
}

// bounds is the table of what must be shown. A worker's very first job is held to the limits of the later ones.
func (k *results) bounds() Table {
	const push, archive = "Push", "Archive as tar.gz"
	sizes := []string{"small", "medium", "large"}
	filter, cold, warm := [3]float64{0.40, 0.06, 0.04}, [3]float64{0.60, 0.55, 0.45}, [3]float64{0.30, 0.03, 0.015}
	table := Table{Title: "Bounds", Header: append([]string{"wall time, of the git CLI's"}, sizes...)}
	for _, line := range []shown{
		{"push, cold, filter offered", push, onDisk, rowFilter, filter},
		{"the same, a worker's very first job", push, onDisk, rowFirstFilter, filter},
		{"push, cold, no filter", push, onDisk, rowCold, cold},
		{"the same, a worker's very first job", push, onDisk, rowFirst, cold},
		{"push, warm, branch unmoved", push, onDisk, rowWarm, warm},
		{"the same, another file was edited before", push, onDisk, rowOther, warm},
		{"push, warm, branch moved by one commit", push, onDisk, rowMoved, [3]float64{0.45, 0.05, 0.03}},
		{"archive tar.gz, cold, no filter", archive, onDisk, rowCold, [3]float64{0.80, 0.70, 0.60}},
		{"push, cold, no filter, in memory", push, inMemory, rowCold, [3]float64{0.75, 0.75, 0.75}},
		{"archive tar.gz, cold, no filter, in memory", archive, inMemory, rowCold, [3]float64{0.80, 0.75, 0.75}},
	} {
		cells := []string{line.name}
		for i, size := range sizes {
			cells = append(cells, k.verdict(Result{Kind: line.kind, Size: size, Place: line.place}.title(), line.row, line.limits[i]))
		}
		table.Rows = append(table.Rows, cells)
	}
	table.Rows = append(table.Rows, append([]string{"peak RSS of a push, any way, any place"}, k.memory(sizes)...))
	for _, row := range queueRows() {
		if row.Bound > 0 {
			table.Rows = append(table.Rows, []string{"200 repositories: " + row.Name, k.verdict(queueTitle, row.Name, row.Bound), "", ""})
		}
	}
	return table
}

func (k *results) verdict(title, name string, limit float64) string {
	for _, result := range k.All {
		if row, found := result.row(name); found && result.title() == title {
			part := float64(row.wall()) / float64(max(result.Rows[0].wall(), 1))
			return fmt.Sprintf("%.3f of %.3f, %s", part, limit, met(part <= limit))
		}
	}
	return "not measured"
}

// memory are the verdicts on the most that any push of ours had.
func (k *results) memory(sizes []string) (cells []string) {
	for _, size := range sizes {
		var most, limit int64
		for _, result := range k.All {
			for _, row := range result.Rows {
				if result.Size == size && row.Memory > 0 {
					most, limit = max(most, row.rss()), row.Memory
				}
			}
		}
		if limit == 0 {
			cells = append(cells, "not measured")
			continue
		}
		cells = append(cells, fmt.Sprintf("%s of %s, %s", megabytes(most), megabytes(limit), met(most <= limit)))
	}
	return cells
}

func met(is bool) string {
	if is {
		return "met"
	}
	return "NOT MET"
}
