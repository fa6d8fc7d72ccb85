package api

// Page is one page of a list. NextPage is the cursor of the next one, null at
// the end; a page may be empty and still have a next one.
type Page[T any] struct {
	Data     []T     `json:"data"`
	NextPage *string `json:"next_page"`
}

// BidirectionalPage is a Page that can also be walked backwards; only the list
// of sessions has it.
type BidirectionalPage[T any] struct {
	Data     []T     `json:"data"`
	NextPage *string `json:"next_page"`
	PrevPage *string `json:"prev_page"`
}

// Deleted answers a delete: Type is "<object>_deleted".
type Deleted struct {
	ID   string `json:"id"`
	Type string `json:"type"`
}
