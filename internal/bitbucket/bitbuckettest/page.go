package bitbuckettest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// writePage writes one page of the objects that q selects, with the address of the next.
func writePage(w http.ResponseWriter, r *http.Request, all []object) {
	parameters := r.URL.Query()
	selected, err := selectBy(parameters.Get("q"), all)
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	page, length := 1, 10
	for name, number := range map[string]*int{"page": &page, "pagelen": &length} {
		if text := parameters.Get(name); text != "" {
			if *number, err = strconv.Atoi(text); err != nil || *number < 1 || name == "pagelen" && *number > 100 {
				writeError(w, http.StatusBadRequest, "Invalid "+name)
				return
			}
		}
	}
	first := min((page-1)*length, len(selected))
	last := min(first+length, len(selected))
	answer := object{"pagelen": length, "page": page, "size": len(selected), "values": selected[first:last]}
	if last < len(selected) {
		parameters.Set("page", strconv.Itoa(page+1))
		next := url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: parameters.Encode()}
		answer["next"] = origin(r) + next.String()
	}
	writeObject(w, r, http.StatusOK, answer)
}

// clause is one comparison of Bitbucket's query language, as far as it is understood: field = "text", field ~ "text" and
// field >= time, joined by AND. https://developer.atlassian.com/cloud/bitbucket/rest/intro/#filtering
var clause = regexp.MustCompile(`^\s*([a-z_.]+)\s*(?:(=|~)\s*"((?:[^"\\]|\\.)*)"|>=\s*([0-9T:.+-]+))\s*(?:AND\b)?`)

func selectBy(query string, all []object) ([]object, error) {
	selected := append([]object{}, all...)
	for rest := query; strings.TrimSpace(rest) != ""; {
		match := clause.FindStringSubmatch(rest)
		if match == nil {
			return nil, fmt.Errorf("Invalid query: %s", query) //nolint:staticcheck // Bitbucket's words
		}
		rest = rest[len(match[0]):]
		since, err := time.Parse(time.RFC3339, match[4])
		if err != nil && match[4] != "" {
			return nil, fmt.Errorf("Invalid query: %s", query) //nolint:staticcheck // Bitbucket's words
		}
		want := regexp.MustCompile(`\\(.)`).ReplaceAllString(match[3], "$1")
		kept := selected[:0]
		for _, candidate := range selected {
			have, _ := field(candidate, match[1]).(string)
			if match[4] != "" {
				if at, err := time.Parse(time.RFC3339, have); err == nil && !at.Before(since) {
					kept = append(kept, candidate)
				}
				continue
			}
			if have == want || match[2] == "~" && strings.Contains(strings.ToLower(have), strings.ToLower(want)) {
				kept = append(kept, candidate)
			}
		}
		selected = kept
	}
	return selected, nil
}

// field is what a dotted path leads to.
func field(value any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		inner, _ := value.(object)
		value = inner[name]
	}
	return value
}

// writeObject writes what the parameter fields leaves of the object; all of it where there is none.
func writeObject(w http.ResponseWriter, r *http.Request, status int, whole object) {
	var left any = whole
	if wanted := r.URL.Query().Get("fields"); wanted != "" {
		var paths [][]string
		for path := range strings.SplitSeq(wanted, ",") {
			paths = append(paths, strings.Split(strings.TrimSpace(path), "."))
		}
		left = reduce(whole, paths)
	}
	writeJSON(w, status, left)
}

// reduce keeps what one of the paths names. A list is reduced object by object.
func reduce(value any, paths [][]string) any {
	for _, path := range paths {
		if len(path) == 0 {
			return value
		}
	}
	switch value := value.(type) {
	case []object:
		reduced := make([]any, len(value))
		for i := range value {
			reduced[i] = reduce(value[i], paths)
		}
		return reduced
	case object:
		reduced := object{}
		for name, inner := range value {
			var deeper [][]string
			for _, path := range paths {
				if path[0] == name {
					deeper = append(deeper, path[1:])
				}
			}
			if deeper != nil {
				reduced[name] = reduce(inner, deeper)
			}
		}
		return reduced
	}
	return value
}

func writeError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, object{"type": "error", "error": object{"message": message}})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(value)
}
