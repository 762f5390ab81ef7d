package rule

import _ "embed"

// Schema is the JSON schema (draft 7) of a file of rules, for editors.
//
//go:embed rules.schema.json
var Schema []byte
